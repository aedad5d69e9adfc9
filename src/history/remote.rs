//! A file in a bucket: there as a whole, or not at all.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, Result};

/// Bytes that are sent at once; shorter files need one request.
const PART_BYTES: usize = 8 << 20;

/// A file that is not there yet.
#[derive(Debug)]
pub(super) struct NewObject {
    store: Arc<dyn ObjectStore>,
    path: Path,
    waiting: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl NewObject {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: &str) -> Self {
        NewObject {
            store,
            path: Path::from(path),
            waiting: Vec::new(),
            upload: None,
        }
    }

    pub(super) async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.waiting.is_empty() {
            self.waiting = bytes;
        } else {
            self.waiting.extend_from_slice(&bytes);
        }
        if self.waiting.len() >= PART_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.waiting));
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                self.refuse_taken().await?;
                self.upload.insert(self.store.put_multipart(&self.path).await?)
            }
        };
        upload.put_part(part.into()).await
    }

    /// Parts cannot be refused because of what is there, so it is looked at first; nobody else
    /// writes here.
    async fn refuse_taken(&self) -> Result<()> {
        match self.store.head(&self.path).await {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::AlreadyExists {
                path: self.path.to_string(),
                source: "it was there before".into(),
            }),
        }
    }

    /// Makes the file be there.
    pub(super) async fn commit(mut self) -> Result<()> {
        if self.upload.is_some() {
            if !self.waiting.is_empty() {
                self.send().await?;
            }
            if let Some(upload) = &mut self.upload {
                upload.complete().await?;
            }
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.waiting));
        let only_new = self
            .store
            .put_opts(&self.path, bytes.clone().into(), PutMode::Create.into());
        match only_new.await {
            // Some servers do not know the condition.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                self.refuse_taken().await?;
                self.store.put(&self.path, bytes.into()).await?;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Gives back the room of what was sent, as far as the store can be told.
    pub(super) async fn abandon(mut self) {
        if let Some(upload) = &mut self.upload {
            let _ = upload.abort().await;
        }
    }
}
