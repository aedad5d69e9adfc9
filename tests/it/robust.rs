//! What must not bring it down.
