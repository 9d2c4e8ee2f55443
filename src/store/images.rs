//! OS images: the rows. Their bytes are in the artifact store.

use crate::domain::id::Name;
use crate::domain::image::Image;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, to_json};

#[derive(sqlx::FromRow)]
struct ImageRow {
    name: String,
    doc: String,
}

impl Store {
    pub async fn images(&self) -> Result<Vec<Image>> {
        let rows: Vec<ImageRow> = in_pool!(self, p => sqlx::query_as("SELECT name, doc FROM images ORDER BY name").fetch_all(p).await)?;
        rows.into_iter().map(|r| from_json("images", &r.name, &r.doc)).collect()
    }

    pub async fn image(&self, name: &Name) -> Result<Option<Image>> {
        let row: Option<ImageRow> = in_pool!(self, p => sqlx::query_as("SELECT name, doc FROM images WHERE name = $1").bind(name.as_str()).fetch_optional(p).await)?;
        row.map(|r| from_json("images", &r.name, &r.doc)).transpose()
    }
}

impl Tx {
    /// Adds an image or replaces the one of that name.
    pub async fn put_image(&mut self, image: &Image) -> Result<()> {
        let doc = to_json(image)?;
        self.touch(None);
        in_tx!(self, c => sqlx::query(
            "INSERT INTO images (name, sha256, doc, imported_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, doc = excluded.doc, imported_at = excluded.imported_at")
            .bind(image.name.as_str())
            .bind(image.sha256.to_string())
            .bind(&doc)
            .bind(image.imported_at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Removes an image's row; `false` when there was none.
    pub async fn delete_image(&mut self, name: &Name) -> Result<bool> {
        self.touch(None);
        let gone = in_tx!(self, c => sqlx::query("DELETE FROM images WHERE name = $1").bind(name.as_str()).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone > 0)
    }
}
