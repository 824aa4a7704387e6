check_ggplot2 <- function() {
  rlang::check_installed("ggplot2", "to draw.", version = "3.4.0")
}

# Of a kind that ggplot2 writes, and in a folder that exists.
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

check_finite <- function(x, name, what, end = "", call = rlang::caller_env()) {
  strange <- which(!is.finite(x))
  if (length(strange) > 0) {
    input <- min((strange - 1) %% (dim(x) %||% length(x))[[1]] + 1)
    got <- paste0(what, " in input number ", input, end)
    abort_must(name, "hold finite numbers only", got = got, call = call)
  }
}

# How pictures name each measure of uncertainty, and its unit; without one it is that of what is predicted.
# The core has the same table.
measure_table <- list(
  predictive_entropy = c("predictive entropy", "nats"), expected_entropy = c("expected entropy", "nats"),
  mutual_information = c("mutual information", "nats"),
  variation_ratio = c("variation ratio", "share of the draws"),
  least_confidence = c("1 - confidence", "probability"), smallest_margin = c("1 - margin", "probability"),
  std = "standard deviation", total_std = "standard deviation with noise"
)

unit_of <- function(measure, classes) {
  known <- measure_table[[measure]]
  if (length(known) == 2) known[[2]] else if (classes) "probability" else "units of the values"
}

label_of <- function(measure) {
  known <- measure_table[[measure]]
  if (length(known) == 2) paste0(known[[1]], " (", known[[2]], ")") else known
}

settling_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), strip.text = ggplot2::element_text(hjust = 0, size = 8.5),
      plot.title = ggplot2::element_text(size = 10, face = "bold"),
      plot.caption = ggplot2::element_text(hjust = 0)
    )
}

# Drawn on a screen by printing it, or into a file.
saved_plot <- function(plot, path, width, height) {
  if (is.null(path)) {
    return(plot)
  }
  ggplot2::ggsave(as_picture_path(path), plot, width = width, height = height, dpi = 150, bg = "white")
  invisible(plot)
}

# how it is drawn ----

dark <- "steelblue4"

settled <- 0.05 # coverage from which on the axis has room for the risk: of the first few it may be anything

chart_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), legend.position = "bottom",
      axis.title = ggplot2::element_text(size = 9)
    )
}

# A script would draw it once more, into Rplots.pdf.
finished <- function(plot, path, width, height, call = rlang::caller_env()) {
  if (is.null(path)) {
    return(plot)
  }
  path <- as_picture_path(path, call)
  ggplot2::ggsave(path, plot, width = width, height = height, dpi = 150, limitsize = FALSE, bg = "white")
  invisible(plot)
}

check_scores <- function(scores, call = rlang::caller_env()) {
  if (!inherits(scores, "mc_scores")) {
    abort_must("scores", "be what `mc_scores()` returns", got = shown(class(scores)[[1]]), call = call)
  }
}
