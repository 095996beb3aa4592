pub struct Client {
    secret: u8,
}

impl Client {
    pub fn open() {}

    #[doc(hidden)]
    pub fn concealed() {}

    fn private() {}
}

impl Drop for Client {
    fn drop(&mut self) {}
}
