//! A web service that keeps its own database recoverable: health, and a backup on request.
//!
//! `cargo run --example embed_in_axum_service`, then `curl -X POST localhost:3000/backups`, `curl localhost:3000/health`
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use data_manager::{Actor, BackupOptions, DataManager, Error, ErrorKind, Statement};

type App = Arc<DataManager>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dm = DataManager::builder()
        .engine("main", "sqlite://service.db?mode=rwc")?
        .repository("./dm-backups")
        .state("./dm-state.db")
        .actor(Actor::service("orders"))
        .build()?;
    dm.execute(
        &dm.context(),
        Statement::new("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, total INTEGER)"),
    )
    .await?;

    let app = router(Arc::new(dm));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

fn router(dm: App) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/backups", get(list).post(run))
        .route("/orders", post(order))
        .with_state(dm)
}

async fn health(State(dm): State<App>) -> Result<Json<serde_json::Value>, Answer> {
    let engines = dm.health(&dm.context()).await?;
    Ok(Json(serde_json::json!({ "engines": engines })))
}

async fn list(State(dm): State<App>) -> Result<Json<serde_json::Value>, Answer> {
    let backups = dm.backup().list(&dm.context(), None).await?;
    Ok(Json(serde_json::json!({ "backups": backups.backups })))
}

async fn run(State(dm): State<App>) -> Result<Json<serde_json::Value>, Answer> {
    let report = dm.backup().run(&dm.context(), &BackupOptions::default()).await?;
    Ok(Json(serde_json::json!({ "backup": report.backup })))
}

async fn order(State(dm): State<App>) -> Result<StatusCode, Answer> {
    dm.execute(&dm.context(), Statement::new("INSERT INTO orders (total) VALUES (?)").bind(100)).await?;
    Ok(StatusCode::CREATED)
}

/// An error as an HTTP answer: the kind decides the status, the message has no secret in it.
struct Answer(Error);

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl axum::response::IntoResponse for Answer {
    fn into_response(self) -> axum::response::Response {
        let status = match self.0.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.0.to_string()).into_response()
    }
}
