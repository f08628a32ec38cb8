//! The HTTP side: metrics, health, SQL gateway, job REST.
