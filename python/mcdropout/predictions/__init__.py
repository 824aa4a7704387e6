"""From raw outputs to summaries of the draws, and to the prediction that users get."""
