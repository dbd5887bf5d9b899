//! Proof of the codec: the corpus of malformed requests, byte-by-byte feeding, round trips, mutation, linear
//! time. Must stay true: every case here is fed whole and in pieces, and both give the same.
#![forbid(unsafe_code)]

mod bodies;
mod malformed;
mod mutation;
mod responses;
mod round_trip;
