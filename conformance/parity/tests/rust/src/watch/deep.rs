pub struct Record {
    pub shown: u8,
    hidden: u8,
}
