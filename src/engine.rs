//! Temporary stub of the engine's contract.
#![allow(missing_docs, clippy::all, unused_variables)]

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use connectors::Decoded;
use dataflows::{Tick, Updates};

use crate::config::Deployment;

#[derive(Clone)]
pub struct Engine(Arc<Inner>);
struct Inner {
    deployment: Deployment,
    relations: Vec<Relation>,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelationKind {
    Source,
    View,
    Alert,
}
pub struct Relation {
    pub name: String,
    pub kind: RelationKind,
    pub schema: SchemaRef,
    pub key: Option<Vec<usize>>,
    pub definition: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Insert,
    Delete,
}
pub struct Accepted {
    pub accepted: u64,
    pub late: u64,
    pub rejected: u64,
    pub tick: Tick,
}
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub struct IngestError;
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub struct EngineError;
pub struct Snapshot {
    pub tick: Tick,
    pub relations: queries::Relations,
}
pub enum Changes {
    Runs(Vec<Updates>),
    TooOld,
}
impl Engine {
    pub fn deployment(&self) -> &Deployment {
        &self.0.deployment
    }
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.0.relations.iter().find(|r| r.name == name)
    }
    pub fn relations(&self) -> &[Relation] {
        &self.0.relations
    }
    pub async fn ingest(&self, source: &str, operation: Operation, decoded: Decoded) -> Result<Accepted, IngestError> {
        Err(IngestError)
    }
    pub fn acknowledged(&self) -> Tick {
        0
    }
    pub async fn snapshot(&self, names: &[String], at_least: Tick) -> Result<Snapshot, EngineError> {
        Err(EngineError)
    }
    pub fn progress(&self) -> tokio::sync::watch::Receiver<u64> {
        tokio::sync::watch::channel(0).1
    }
    pub fn completed(&self, relation: &str) -> Tick {
        0
    }
    pub fn changes(&self, relation: &str, after: Tick, through: Tick) -> Changes {
        Changes::TooOld
    }
    pub fn errors(&self, relation: &str) -> u64 {
        0
    }
    pub fn failed(&self, relation: &str) -> Option<String> {
        None
    }
    pub fn rows(&self, relation: &str) -> u64 {
        0
    }
    pub fn arrival(&self, tick: Tick) -> Option<Instant> {
        None
    }
    pub fn incarnation(&self) -> u64 {
        0
    }
}
