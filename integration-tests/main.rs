//! Drives the real program with real clients.
