library(testthat)
library(mcdropout)

test_check("mcdropout")
