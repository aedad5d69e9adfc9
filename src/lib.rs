//! Sangam: live SQL views over streams, declared by a folder of TOML and SQL.
//!
//! `cli` is the command line, `config` reads a deployment folder, `engine` runs
//! it, `log` has what is to survive, `history` what outlives memory, `server` answers for it.
pub mod cli;
pub mod config;
pub mod engine;
pub mod history;
pub mod log;
pub mod server;
