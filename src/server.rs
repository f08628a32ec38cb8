//! Start-up and shutdown order.
