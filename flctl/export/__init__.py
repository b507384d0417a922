"""A trained model as a folder that runs without flctl: weights, network, preprocessing, model card."""
