"""A Keras model read once: calls, labels of channels, rules, and the channel graph."""
