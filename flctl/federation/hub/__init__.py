"""The hub: a post box for envelopes and sealed blobs, reached by HTTPS. It can neither forge nor read what it keeps."""
