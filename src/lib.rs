//! Sangam: live SQL views over streams, declared by a folder of TOML and SQL.
//!
//! `cli` is the command line, `config` reads a deployment folder, `engine` runs
//! it, `history` keeps what outlives its memory, `server` answers for it.
pub mod cli;
pub mod config;
pub mod engine;
pub mod history;
pub mod server;
