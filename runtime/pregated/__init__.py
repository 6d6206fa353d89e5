"""Models whose gates look ahead: a small Mixture-of-Experts transformer, its training, its predictors, its run."""
