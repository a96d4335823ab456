"""Keras and TensorFlow: models of Keras 3 on either of two backends, and SavedModels."""
