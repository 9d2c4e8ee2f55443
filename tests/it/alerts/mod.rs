//! Alerts: from the cause in the store to what a receiver gets.

mod outbox;
