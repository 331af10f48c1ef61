//! The system's own state in SQLite or PostgreSQL, from one SQL text.
