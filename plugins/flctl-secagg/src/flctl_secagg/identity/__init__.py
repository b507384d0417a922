"""Identity keys of clients and the roster that an operator signs."""
