//! Mosquitto's dynamic security plug-in: commands over `$CONTROL`, answers matched by their correlation data.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::mqtt::SendError;

/// Where commands go.
pub(super) const COMMANDS: &str = "$CONTROL/dynamic-security/v1";
/// Where answers come.
pub(super) const ANSWERS: &str = "$CONTROL/dynamic-security/v1/response";
/// Longest wait for an answer. An owner waits for it after `revoke`.
const WAIT: Duration = Duration::from_secs(5);

type Waiting = Mutex<HashMap<String, oneshot::Sender<Vec<Value>>>>;

pub(super) struct Control {
    client: AsyncClient,
    next: AtomicU64,
    waiting: Waiting,
}

impl Control {
    pub(super) fn new(client: AsyncClient) -> Self {
        Self { client, next: AtomicU64::new(0), waiting: Mutex::default() }
    }

    /// Runs commands whose aim may have been reached before.
    pub(super) async fn run(&self, commands: Vec<Value>) -> Result<(), SendError> {
        for answer in self.ask(commands).await? {
            match answer["error"].as_str() {
                None => {}
                Some(error) if error.contains("already exists") || error.contains("not found") => {}
                Some(error) => return Err(SendError::Broker(format!("{}: {error}", answer["command"].as_str().unwrap_or("command")))),
            }
        }
        Ok(())
    }

    /// Runs commands and gives their answers, in order.
    pub(super) async fn ask(&self, mut commands: Vec<Value>) -> Result<Vec<Value>, SendError> {
        let name = format!("m{}", self.next.fetch_add(1, Ordering::Relaxed));
        for command in &mut commands {
            command["correlationData"] = json!(name);
        }
        let (answer, answered) = oneshot::channel();
        self.lock().insert(name.clone(), answer);
        let payload = json!({ "commands": commands }).to_string();
        let asked = async {
            let sent = self.client.publish(COMMANDS, QoS::AtLeastOnce, false, payload).await;
            sent.map_err(|error| SendError::Broker(error.to_string()))?;
            answered.await.map_err(|_| SendError::Broker("the line to it broke".into()))
        };
        let answer = timeout(WAIT, asked).await;
        self.lock().remove(&name);
        answer.unwrap_or_else(|_| Err(SendError::Broker("no answer from its dynamic security plug-in in 5 seconds".into())))
    }

    /// Takes an answer in.
    pub(super) fn answered(&self, payload: &[u8]) {
        let Ok(mut answer) = serde_json::from_slice::<Value>(payload) else { return };
        let Some(Value::Array(answers)) = answer.get_mut("responses").map(Value::take) else { return };
        let name = answers.first().and_then(|answer| answer["correlationData"].as_str()).map(str::to_owned);
        if let Some(waiting) = name.and_then(|name| self.lock().remove(&name)) {
            // Who asked may have given up.
            let _ = waiting.send(answers);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Vec<Value>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
