//! What is kept elsewhere.
