"""Reading labelled images, and augmenting them."""
