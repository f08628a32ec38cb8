//! Sockets, frames, headers, response order and back-pressure.
