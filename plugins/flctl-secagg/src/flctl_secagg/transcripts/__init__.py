"""Recorded sessions, and their verification."""
