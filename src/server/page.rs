//! The one plain page: views live, alerts on top, and how to get at the rest.

use axum::http::header;
use axum::response::{Html, IntoResponse};

/// Hand-written and self-contained: it works on a machine without the internet.
const PAGE: &str = include_str!("page.html");

pub(super) async fn page() -> impl IntoResponse {
    // The script and the styles are the page's own; nothing is ever fetched from elsewhere.
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
        connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    (
        [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::CACHE_CONTROL, "no-cache"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        Html(PAGE),
    )
}
