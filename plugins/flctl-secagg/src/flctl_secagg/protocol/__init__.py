"""The protocol that both sides know: parameters, sessions, messages, signed texts, k and t."""
