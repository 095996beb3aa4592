//! Streams by ready and take.

/// A class over a stream of the bridge.
macro_rules! stream {
    ($name:ident($stream:ident) -> $item:ty, $into:expr) => {
        #[napi_derive::napi]
        pub struct $name(pub(crate) folkmoot_bridge::$stream);

        #[napi_derive::napi]
        impl $name {
            #[napi]
            pub fn ready<'e>(
                &self,
                env: &'e napi::Env,
                cancel: Option<u32>,
            ) -> napi::Result<napi::bindgen_prelude::PromiseRaw<'e, ()>> {
                let stream = self.0.clone();
                $crate::call::call(env, cancel, async move { stream.ready().await }, |()| ())
            }

            /// Calls back once when there is something to take or nothing will ever come, and does not
            /// keep the process alive.
            #[napi]
            pub fn ready_weak(&self, callback: napi::bindgen_prelude::Function<(), ()>) -> napi::Result<()> {
                let callback = $crate::call::weak(&callback)?;
                let stream = self.0.clone();
                let runtime = folkmoot_bridge::runtime().map_err($crate::call::fail)?;
                runtime.spawn(async move {
                    // The next take tells of an error.
                    let _ = stream.ready().await;
                    callback.call((), napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking);
                });
                Ok(())
            }

            #[napi]
            pub fn take(&self) -> napi::Result<Option<$item>> {
                Ok(self.0.take().map_err($crate::call::fail)?.map($into))
            }

            #[napi]
            pub fn done(&self) -> napi::Result<bool> {
                self.0.done().map_err($crate::call::fail)
            }

            #[napi]
            pub fn stop(&self) {
                self.0.stop();
            }
        }
    };
}
pub(crate) use stream;
