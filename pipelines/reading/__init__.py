"""Text in images: the engines that see it, the order in which a person reads it, and whether it is good to learn."""
