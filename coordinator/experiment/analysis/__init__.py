"""What a group has learned: measures of its networks from initialization to the end, and pictures of them."""
