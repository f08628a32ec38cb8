//! Frames over real sockets.
