//! What is kept and for how long: samples by age and by number, the samples of a deleted device, devices with ever new columns.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use mqtt_common::*;
use muster_hub::clock::{self, DAY};
use muster_hub::store::telemetry;
use muster_proto::topic::Up;

const BOOT: &str = "0123456789abcdef";
const SAMPLES: &str = "SELECT count(*) FROM usage_samples";

async fn filled(samples: u64) -> Hub {
    let hub = Hub::start().await;
    hub.device(A, "acme").await;
    for first in (0..samples).step_by(100) {
        hub.ingest.up(&uid(A), &Up::Usage, &usage(BOOT, first, 100)).await.unwrap();
    }
    hub
}

/// Prunes until there is nothing left to do; in how many slices.
async fn prune(hub: &Hub, cutoff: i64) -> u32 {
    let mut slices = 0;
    while hub.store.write(move |tx| telemetry::prune(tx, cutoff, 150)).await.unwrap() {
        slices += 1;
        assert!(slices < 1000, "it ends");
    }
    slices
}

#[tokio::test]
async fn samples_go_by_the_age_of_their_arrival_in_slices() {
    let hub = filled(500).await;
    assert_eq!(prune(&hub, clock::now() - DAY).await, 0, "their own times are of 2023, they came just now");
    assert_eq!(hub.count(SAMPLES).await, 500);
    hub.store
        .write(|tx| Ok(tx.execute_batch("UPDATE usage_samples SET received = 1 WHERE seq < 300; UPDATE usage_boots SET received = 1")?))
        .await
        .unwrap();
    assert!(prune(&hub, clock::now() - DAY).await >= 2);
    assert_eq!(hub.count("SELECT min(seq) FROM usage_samples").await, 300);
    // What is gone by age and comes again is taken as new; that a life's row went and came again does no harm.
    assert!(prune(&hub, i64::MAX).await >= 2);
    assert_eq!((hub.count(SAMPLES).await, hub.count("SELECT count(*) FROM usage_boots").await), (0, 0));
    hub.ingest.up(&uid(A), &Up::Usage, &usage(BOOT, 500, 10)).await.unwrap();
    assert_eq!(hub.store.read(|db| telemetry::samples(db, &uid(A), 0, 100)).await.unwrap().len(), 10);
}

#[tokio::test]
async fn the_samples_of_a_deleted_device_go() {
    let hub = filled(300).await;
    hub.device(B, "acme").await;
    hub.ingest.up(&uid(B), &Up::Usage, &usage(BOOT, 0, 7)).await.unwrap();
    hub.store.write(|tx| Ok(tx.execute("DELETE FROM devices WHERE uid = ?1", [A])?)).await.unwrap();
    assert!(prune(&hub, clock::now() - DAY).await >= 2);
    assert_eq!(hub.count(SAMPLES).await, 7);
    assert_eq!(hub.count("SELECT count(*) FROM usage_columns").await, 1);
    let refused = hub.ingest.up(&uid(A), &Up::Usage, &usage(BOOT, 0, 7)).await;
    assert!(refused.is_err(), "nothing is stored of a device that is not listed");
    assert_eq!(hub.count(SAMPLES).await, 7);
}

#[tokio::test]
async fn a_device_over_its_number_loses_the_oldest() {
    let hub = filled(500).await;
    let surplus = hub.store.read(|db| telemetry::surplus(db, &uid(A), 400)).await.unwrap();
    assert_eq!(surplus, 100);
    let gone = hub.store.write(move |tx| telemetry::drop_oldest(tx, &uid(A), surplus)).await.unwrap();
    assert_eq!((gone, hub.count("SELECT min(seq) FROM usage_samples").await), (100, 100));
}

#[tokio::test]
async fn ever_new_columns_cost_rows_not_sets_and_read_the_same() {
    let hub = Hub::start().await;
    hub.device(A, "acme").await;
    let most = u64::try_from(telemetry::COLUMN_SETS_MAX).unwrap();
    for n in 0..most + 10 {
        let batch =
            format!(r#"{{"boot":"{BOOT}","first_seq":{n},"n":1,"t0":{},"step_s":1,"c":{{"net_rx:veth{n}":[null],"x{n}":{n}}}}}"#, 1000 + n);
        hub.ingest.up(&uid(A), &Up::Usage, batch.as_bytes()).await.unwrap();
    }
    assert_eq!(hub.count("SELECT count(*) FROM usage_columns").await, telemetry::COLUMN_SETS_MAX);
    let samples = hub.store.read(|db| telemetry::samples(db, &uid(A), 0, 1000)).await.unwrap();
    assert_eq!(samples.len() as u64, most + 10);
    for sample in samples {
        assert_eq!(sample.values, [(format!("x{}", sample.seq), sample.seq as f64)].into(), "a value that was not read is not there");
    }
}
