//! Feature gates: switches for what is not for everybody, under etcd's names.
//!
//! All of etcd's gates are understood, so that its command lines work. One that nothing here asks
//! for has no effect.

use std::collections::BTreeMap;

/// A feature that can be switched on or off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Gate {
    /// Health is not serving while a member is defragmented.
    StopGrpcServiceOnDefrag,
    /// The store is compared with other members' before a member serves.
    InitialCorruptCheck,
    /// Hashes of compacted revisions are compared between members.
    CompactHashCheck,
    /// A detail of etcd's storage.
    TxnModeWriteWithSharedBuffer,
    /// What is left of a lease's time to live survives a change of leaders.
    LeaseCheckpoint,
    /// The same, over restarts; needs `LeaseCheckpoint`.
    LeaseCheckpointPersist,
    /// Connections to other members come from the address that is advertised.
    SetMemberLocalAddr,
    /// Keepalives are answered without a round through the log.
    FastLeaseKeepAlive,
    /// Requests that keep the cluster running go first.
    PriorityRequest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

const GATES: [(Gate, &str, Stage, bool); 9] = [
    (Gate::StopGrpcServiceOnDefrag, "StopGRPCServiceOnDefrag", Stage::Alpha, false),
    (Gate::InitialCorruptCheck, "InitialCorruptCheck", Stage::Alpha, false),
    (Gate::CompactHashCheck, "CompactHashCheck", Stage::Alpha, false),
    (Gate::TxnModeWriteWithSharedBuffer, "TxnModeWriteWithSharedBuffer", Stage::Beta, true),
    (Gate::LeaseCheckpoint, "LeaseCheckpoint", Stage::Alpha, false),
    (Gate::LeaseCheckpointPersist, "LeaseCheckpointPersist", Stage::Alpha, false),
    (Gate::SetMemberLocalAddr, "SetMemberLocalAddr", Stage::Alpha, false),
    (Gate::FastLeaseKeepAlive, "FastLeaseKeepAlive", Stage::Beta, true),
    (Gate::PriorityRequest, "PriorityRequest", Stage::Alpha, false),
];
/// Stand for all gates of their stage that are not named themselves.
const STAGES: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// Which gates were set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeatureGates {
    set: BTreeMap<Gate, bool>,
}

impl FeatureGates {
    /// Reads `Name=true,Name=false`.
    ///
    /// # Errors
    /// Names the gate that there is not, or the value that is neither; the words are etcd's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut named = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("missing bool value for {}", part.trim()));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            named.insert(name, on);
        }
        let mut set = BTreeMap::new();
        for (name, on) in named {
            if let Some((gate, ..)) = GATES.iter().find(|(_, known, ..)| *known == name) {
                set.insert(*gate, on);
            } else if let Some((_, stage)) = STAGES.iter().find(|(known, _)| *known == name) {
                for (gate, ..) in GATES.iter().filter(|(.., of, _)| of == stage) {
                    // Stages come first in the order of names; gates named themselves overwrite.
                    set.insert(*gate, on);
                }
            } else {
                return Err(format!("unrecognized feature gate: {name}"));
            }
        }
        Ok(Self { set })
    }

    /// What was said about a gate, itself or through its stage.
    pub fn given(&self, gate: Gate) -> Option<bool> {
        self.set.get(&gate).copied()
    }

    /// Whether a gate is open.
    pub fn is_on(&self, gate: Gate) -> bool {
        let default = GATES.iter().any(|(known, _, _, on)| *known == gate && *on);
        self.given(gate).unwrap_or(default)
    }
}

/// What Go takes for true and false.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_that_are_not_named_have_their_defaults() {
        let gates = FeatureGates::parse("").expect("nothing");
        assert_eq!(gates, FeatureGates::default());
        assert!(!gates.is_on(Gate::InitialCorruptCheck));
        assert!(gates.is_on(Gate::FastLeaseKeepAlive));
    }

    #[test]
    fn gates_are_set_by_name() {
        let gates = FeatureGates::parse("InitialCorruptCheck=T, FastLeaseKeepAlive = 0,").expect("reads");
        assert!(gates.is_on(Gate::InitialCorruptCheck));
        assert!(!gates.is_on(Gate::FastLeaseKeepAlive));
        assert_eq!(gates.given(Gate::CompactHashCheck), None);
    }

    #[test]
    fn a_gate_named_itself_counts_more_than_its_stage_wherever_it_stands() {
        for text in ["AllAlpha=true,CompactHashCheck=false", "CompactHashCheck=false,AllAlpha=true"] {
            let gates = FeatureGates::parse(text).expect("reads");
            assert!(gates.is_on(Gate::InitialCorruptCheck));
            assert!(!gates.is_on(Gate::CompactHashCheck));
        }
        let gates = FeatureGates::parse("AllBeta=false").expect("reads");
        assert!(!gates.is_on(Gate::FastLeaseKeepAlive));
        assert!(!gates.is_on(Gate::InitialCorruptCheck));
    }

    #[test]
    fn all_gates_and_no_others_are_known() {
        for (gate, name, _, default) in GATES {
            assert_eq!(FeatureGates::default().is_on(gate), default, "{name}");
            let gates = FeatureGates::parse(&format!("{name}={}", !default)).expect(name);
            assert_eq!(gates.is_on(gate), !default, "{name}");
            // Stages must be read before any gate; see the parser.
            assert!(STAGES.iter().all(|(stage, _)| *stage < name));
        }
        let refusal = |text| FeatureGates::parse(text).expect_err("is refused");
        assert_eq!(refusal("X=true"), "unrecognized feature gate: X");
        assert_eq!(refusal("InitialCorruptCheck"), "missing bool value for InitialCorruptCheck");
        assert_eq!(
            refusal("InitialCorruptCheck=yes"),
            "invalid value of InitialCorruptCheck=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
    }
}
