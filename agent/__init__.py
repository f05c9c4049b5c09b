"""One idea -> one patch: the model seam, the loop, and its trajectory."""
