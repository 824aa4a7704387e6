# Style of all pictures, and the checks before drawing.

check_ggplot2 <- function() {
  rlang::check_installed("ggplot2", "to draw.", version = "3.4.0")
}

# Checks that ggplot2 can write a file of this kind, and that its folder exists.
as_picture_path <- function(path, call = rlang::caller_env()) {
  path <- as_path(path, "path", call)
  kinds <- c("bmp", "eps", "jpeg", "jpg", "pdf", "png", "ps", "svg", "tex", "tiff")
  if (!tolower(tools::file_ext(path)) %in% kinds) {
    abort_must("path", paste0("end in one of .", paste(kinds, collapse = ", .")), path, call = call)
  }
  if (!dir.exists(dirname(path))) {
    abort_must("path", "be in a folder that exists", path, call = call)
  }
  path
}

# `what` is the kind of value in the message, `end` its last words.
check_finite <- function(x, name, what, end = "", call = rlang::caller_env()) {
  not_finite <- which(!is.finite(x))
  if (length(not_finite) > 0) {
    input <- min((not_finite - 1) %% (dim(x) %||% length(x))[[1]] + 1)
    got <- paste0(what, " in input number ", input, end)
    abort_must(name, "hold finite numbers only", got = got, call = call)
  }
}

# The words for each measure of uncertainty in pictures, and its unit. A measure without a unit here has the
# unit of the prediction. The core has the same table.
measure_table <- list(
  predictive_entropy = c("predictive entropy", "nats"), expected_entropy = c("expected entropy", "nats"),
  mutual_information = c("mutual information", "nats"),
  variation_ratio = c("variation ratio", "share of the draws"),
  least_confidence = c("1 - confidence", "probability"), smallest_margin = c("1 - margin", "probability"),
  std = "standard deviation", total_std = "standard deviation with noise"
)

unit_of <- function(measure, classes) {
  words <- measure_table[[measure]]
  if (length(words) == 2) words[[2]] else if (classes) "probability" else "units of the values"
}

label_of <- function(measure) {
  words <- measure_table[[measure]]
  if (length(words) == 2) paste0(words[[1]], " (", words[[2]], ")") else words
}

# The theme of pictures with several panels and a title or caption.
panel_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), strip.text = ggplot2::element_text(hjust = 0, size = 8.5),
      plot.title = ggplot2::element_text(size = 10, face = "bold"),
      plot.caption = ggplot2::element_text(hjust = 0)
    )
}

# style and file ----

main_colour <- "steelblue4"

# The axis has room for the risk from this coverage on. The risk of fewer inputs may have any value.
first_coverage <- 0.05

# The theme of pictures with a legend.
chart_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), legend.position = "bottom",
      axis.title = ggplot2::element_text(size = 9)
    )
}

# Returns the picture. With a path it writes a file and returns the picture invisibly, because a script would
# otherwise draw it again, into Rplots.pdf.
save_picture <- function(plot, path, width, height, call = rlang::caller_env()) {
  if (is.null(path)) {
    return(plot)
  }
  path <- as_picture_path(path, call)
  ggplot2::ggsave(path, plot, width = width, height = height, dpi = 150, limitsize = FALSE, bg = "white")
  invisible(plot)
}

check_scores <- function(scores, call = rlang::caller_env()) {
  if (!inherits(scores, "mc_scores")) {
    abort_must("scores", "be what `mc_scores()` returns", got = show_value(class(scores)[[1]]), call = call)
  }
}
