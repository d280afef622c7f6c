//! Orders that start something for a person: signed, and meant for the key that speaks for the device now.

use muster_proto::Millis;
use muster_proto::order::{Order, OrderKind, SignedOrder};
use muster_proto::problem::Code;

use super::{ApiError, ApiResult};
use crate::random;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};

/// Signs an order for a device.
///
/// # Errors
/// `device_offline` when no key speaks for it.
pub(super) async fn sign(state: &AppState, device: &DeviceRow, t: Millis, kind: OrderKind) -> ApiResult<SignedOrder> {
    let uid = device.uid.clone();
    let key = state.store.read(move |db| devices::current_key(db, &uid)).await?.ok_or_else(|| {
        let detail = format!("device {} has no key yet; enrol it with the id {}: musterd enrol URL TOKEN", device.name, device.serial);
        ApiError::new(Code::DeviceOffline, detail)
    })?;
    Ok(state.orders.sign(&Order { device: device.uid.clone(), device_key: random::to_hex(&key), t, kind })?)
}
