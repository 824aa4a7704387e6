# Draws values: the mean of each input, with the interval of the network's mean and, paler, the interval of a
# new observation.
values_plot <- function(prediction) {
  check_ggplot2()
  points <- tidy.mc_prediction(prediction)
  plot <- ggplot2::ggplot(points, ggplot2::aes(x = .data$.input, y = .data$.pred))
  if (!is.null(prediction$pred_int)) {
    points$low <- as.vector(prediction$pred_lower)
    points$high <- as.vector(prediction$pred_upper)
    with_noise <- ggplot2::aes(ymin = .data$low, ymax = .data$high)
    plot <- plot + ggplot2::geom_linerange(with_noise, points, colour = "grey75")
  }
  plot +
    ggplot2::geom_linerange(ggplot2::aes(ymin = .data$.pred_lower, ymax = .data$.pred_upper)) +
    ggplot2::geom_point(size = 0.8) +
    ggplot2::facet_wrap(ggplot2::vars(.data$.output), scales = "free_y") +
    ggplot2::labs(x = "input", y = paste0("mean and ", format(100 * prediction$level), " % intervals")) +
    ggplot2::theme_minimal(base_size = 10)
}
