//! How RocksDB is set up, and why.

use folkmoot_core::env::Family;
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, Env, LogLevel, LruCacheOptions, Options, WriteBufferManager,
};

const MIB: usize = 1 << 20;

/// Bounds of the engine's use of memory and files. The rest is fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RocksOptions {
    /// Rows written and not yet flushed, in bytes, over all families.
    pub write_buffer_bytes: usize,
    /// Blocks read, with indexes, in bytes.
    pub block_cache_bytes: usize,
    /// Table files held open.
    pub open_files_max: i32,
    /// Threads that flush and compact.
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 64 * MIB,
            block_cache_bytes: 32 * MIB,
            open_files_max: 256,
            background_jobs: 2,
        }
    }
}

/// Options of the database, and the block cache that families share.
pub(super) fn database(options: &RocksOptions) -> Result<(Options, Cache), rocksdb::Error> {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Without its own log, RocksDB comes back as a prefix of what was written only if all
    // families are flushed together.
    db.set_atomic_flush(true);
    // There is one writer.
    db.set_allow_concurrent_memtable_write(false);
    db.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        options.write_buffer_bytes,
        false,
    ));
    db.set_max_background_jobs(options.background_jobs);
    db.set_max_open_files(options.open_files_max);
    db.set_max_file_opening_threads(1);
    db.set_skip_stats_update_on_db_open(true);
    // Written tables go to the disk in pieces, so that a log sync beside never waits for a
    // whole table.
    db.set_bytes_per_sync(MIB as u64);
    // RocksDB's own diary: warnings only, four files of one megabyte.
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(MIB);
    db.set_keep_log_file_num(4);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_max_manifest_file_size(16 * MIB);
    db.set_manifest_preallocation_size(64 << 10);
    // Compaction yields to everything else. Flushes do not: they give memory back.
    let mut env = Env::new()?;
    env.lower_thread_pool_cpu_priority();
    db.set_env(&env);

    let mut cache = LruCacheOptions::default();
    cache.set_capacity(options.block_cache_bytes);
    // Few shards, so that the index of a large table fits into one.
    cache.set_num_shard_bits(2);
    Ok((db, Cache::new_lru_cache_opts(&cache)))
}

/// Options of a family.
pub(super) fn family(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    // Otherwise they would be held outside of the cache, without a bound.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_format_version(5);
    // No bloom filters: keys of `rev` are dense, and `idx` is read by seeking to a key's newest
    // version, for which a filter of whole keys says nothing. Both are read seldom, because
    // the state machine has its own index.

    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_level_compaction_dynamic_level_bytes(true);
    // New tables are moved down or merged soon; compressing them would be for nothing.
    let mut compression = [DBCompressionType::Lz4; 7];
    compression[0] = DBCompressionType::None;
    compression[1] = DBCompressionType::None;
    options.set_compression_per_level(&compression);
    // Compaction runs at low priority: let it lag before writes are held up.
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(64);
    let (write_buffer_bytes, write_buffers) = match family {
        Family::Rev => (32 * MIB, 4),
        Family::Idx => (16 * MIB, 4),
        Family::Lease | Family::Sys | Family::Meta => (2 * MIB, 4),
    };
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(write_buffers);
    options
}
