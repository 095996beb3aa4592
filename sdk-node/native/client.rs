//! The client, keys, watches.

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::call::{buffer, bytes, call, fail, maybe_millis, signed};
use super::kv::{
    DeleteIn, DeleteOut, GetIn, GetOut, Header, PutIn, PutOut, TxnIn, TxnOut, WatchBatch, WatchIn,
};
use super::session::{Leader, LeaderStream, Session, leader};
use super::stream::stream;

#[napi(object)]
pub struct TlsIn {
    pub ca_file: Option<String>,
    pub ca_pem: Option<Buffer>,
    pub cert_file: Option<String>,
    pub cert_pem: Option<Buffer>,
    pub key_file: Option<String>,
    pub key_pem: Option<Buffer>,
    pub server_name: Option<String>,
    pub skip_verify: Option<bool>,
}

#[napi(object)]
pub struct ConnectIn {
    pub endpoints: Vec<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub tls: Option<TlsIn>,
    pub namespace: Option<Buffer>,
    pub connect_timeout_ms: Option<f64>,
    pub request_timeout_ms: Option<f64>,
    pub auto_sync_ms: Option<f64>,
}

stream!(WatchStream(WatchStream) -> WatchBatch, WatchBatch::from);
stream!(SnapshotStream(SnapshotStream) -> Buffer, |piece| buffer(&piece));

#[napi]
pub struct Client(pub(crate) bridge::Client);

#[napi]
impl Client {
    #[napi(factory)]
    pub fn create(options: ConnectIn) -> Result<Self> {
        let tls = options.tls.map(|tls| bridge::TlsOptions {
            ca_file: tls.ca_file,
            ca_pem: tls.ca_pem.as_ref().map(bytes),
            cert_file: tls.cert_file,
            cert_pem: tls.cert_pem.as_ref().map(bytes),
            key_file: tls.key_file,
            key_pem: tls.key_pem.as_ref().map(bytes),
            server_name: tls.server_name,
            skip_verify: tls.skip_verify.unwrap_or_default(),
        });
        let options = bridge::ConnectOptions {
            endpoints: options.endpoints,
            user: options.user,
            password: options.password,
            tls,
            namespace: options.namespace.as_ref().map(bytes).unwrap_or_default(),
            connect_timeout: maybe_millis(options.connect_timeout_ms)?,
            request_timeout: maybe_millis(options.request_timeout_ms)?,
            auto_sync: maybe_millis(options.auto_sync_ms)?,
        };
        Ok(Self(bridge::Client::create(options).map_err(fail)?))
    }

    #[napi]
    pub fn verify<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, ()>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.verify().await }, |()| ())
    }

    #[napi]
    pub fn namespace(&self, prefix: Buffer) -> Result<Self> {
        Ok(Self(self.0.namespace(bytes(&prefix)).map_err(fail)?))
    }

    #[napi]
    pub fn cluster_id(&self) -> BigInt {
        self.0.cluster_id().into()
    }

    #[napi]
    pub fn endpoints(&self) -> Result<Vec<String>> {
        self.0.endpoints().map_err(fail)
    }

    #[napi]
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }

    #[napi]
    pub fn stop(&self) {
        self.0.stop();
    }

    #[napi]
    pub fn watch_stream_count(&self) -> u32 {
        self.0.watch_stream_count() as u32
    }

    #[napi]
    pub fn get<'e>(&self, env: &'e Env, get: GetIn, cancel: Option<u32>) -> Result<PromiseRaw<'e, GetOut>> {
        let (client, get) = (self.0.clone(), bridge::GetRecord::try_from(&get)?);
        call(env, cancel, async move { client.get(get).await }, GetOut::from)
    }

    #[napi]
    pub fn put<'e>(&self, env: &'e Env, put: PutIn, cancel: Option<u32>) -> Result<PromiseRaw<'e, PutOut>> {
        let (client, put) = (self.0.clone(), bridge::PutRecord::try_from(&put)?);
        call(env, cancel, async move { client.put(put).await }, PutOut::from)
    }

    #[napi]
    pub fn delete<'e>(
        &self,
        env: &'e Env,
        what: DeleteIn,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, DeleteOut>> {
        let (client, delete) = (self.0.clone(), bridge::DeleteRecord::try_from(&what)?);
        call(env, cancel, async move { client.delete(delete).await }, DeleteOut::from)
    }

    #[napi]
    pub fn commit<'e>(
        &self,
        env: &'e Env,
        txn: TxnIn,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, TxnOut>> {
        let (client, txn) = (self.0.clone(), bridge::TxnRecord::try_from(&txn)?);
        call(env, cancel, async move { client.commit(txn).await }, TxnOut::from)
    }

    #[napi]
    pub fn compact<'e>(
        &self,
        env: &'e Env,
        revision: BigInt,
        physical: bool,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Header>> {
        let (client, revision) = (self.0.clone(), signed(&revision)?);
        call(env, cancel, async move { client.compact(revision, physical).await }, Header::from)
    }

    #[napi]
    pub fn watch<'e>(
        &self,
        env: &'e Env,
        watch: WatchIn,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, WatchStream>> {
        let (client, watch) = (self.0.clone(), bridge::WatchOptions::try_from(&watch)?);
        call(env, cancel, async move { client.watch(watch).await }, WatchStream)
    }

    #[napi]
    pub fn session<'e>(
        &self,
        env: &'e Env,
        ttl_ms: Option<f64>,
        allow_short_ttl: bool,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Session>> {
        let client = self.0.clone();
        let options = bridge::SessionOptions { ttl: maybe_millis(ttl_ms)?, allow_short_ttl };
        call(env, cancel, async move { client.session(options).await }, Session)
    }

    #[napi]
    pub fn leader<'e>(
        &self,
        env: &'e Env,
        name: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Option<Leader>>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.leader(name).await }, leader)
    }

    #[napi]
    pub fn observe<'e>(
        &self,
        env: &'e Env,
        name: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, LeaderStream>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.observe(name).await }, LeaderStream)
    }
}
