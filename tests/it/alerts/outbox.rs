//! Notices in the outbox, on both engines.

use std::collections::BTreeMap;

use hostler::clock;
use hostler::domain::id::{NoticeId, RunId};
use hostler::domain::notice::{Notice, NoticeKind, Severity, Subject};
use hostler::store::Store;

use crate::support::engines::both;

pub fn notice(subject: Subject, kind: NoticeKind, title: &str) -> Notice {
    Notice {
        id: NoticeId(clock::fresh_uuid()),
        subject,
        kind,
        at: clock::now(),
        event: "run.failed".to_owned(),
        severity: Severity::Error,
        machine: None,
        title: title.to_owned(),
        sentences: vec![format!("{title}.")],
        links: vec![],
        labels: BTreeMap::from([("machine".to_owned(), "lab0001".to_owned())]),
    }
}

pub async fn put(store: &Store, notice: &Notice) -> bool {
    let mut tx = store.begin().await.unwrap();
    let put = tx.put_notice(notice).await.unwrap();
    tx.commit().await.unwrap();
    put
}

pub fn subject() -> Subject {
    Subject::Run(RunId(clock::fresh_uuid()))
}

#[tokio::test]
async fn a_close_of_what_is_not_open_is_not_told() {
    for on in both().await {
        let about = subject();
        assert!(!put(&on.store, &notice(about, NoticeKind::Closed, "gone")).await, "{}", on.name);
        assert!(put(&on.store, &notice(about, NoticeKind::Updated, "bad")).await, "{}", on.name);
        assert!(put(&on.store, &notice(about, NoticeKind::Closed, "gone")).await, "{}", on.name);
        assert!(!put(&on.store, &notice(about, NoticeKind::Closed, "gone again")).await, "{}", on.name);
    }
}

#[tokio::test]
async fn a_notice_of_a_transaction_that_fails_is_not_told() {
    for on in both().await {
        let about = subject();
        let mut tx = on.store.begin().await.unwrap();
        assert!(tx.put_notice(&notice(about, NoticeKind::Opened, "bad")).await.unwrap());
        drop(tx);
        assert!(!put(&on.store, &notice(about, NoticeKind::Closed, "gone")).await, "{}: nothing was opened", on.name);
    }
}

#[tokio::test]
async fn notices_of_one_subject_put_at_the_same_time_get_one_number_each() {
    for on in both().await {
        let about = subject();
        let puts = (0..20).map(|n| {
            let store = on.store.clone();
            tokio::spawn(async move { put(&store, &notice(about, NoticeKind::Updated, &format!("n{n}"))).await })
        });
        for put in futures_util::future::join_all(puts).await {
            assert!(put.unwrap());
        }
        let told = on.store.notices_of(about).await.unwrap();
        assert_eq!(told.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=20).collect::<Vec<i64>>(), "{}", on.name);
        assert_eq!(told.iter().filter(|n| n.notice.kind == NoticeKind::Opened).count(), 1, "{}", on.name);
        assert_eq!(told[0].notice.kind, NoticeKind::Opened, "{}", on.name);
    }
}
