"""A trained model on new rows: read, encoded as in training, predicted and written as a stream."""
