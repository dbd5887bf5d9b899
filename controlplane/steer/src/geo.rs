//! Where a client is, from an MMDB file that the operator supplies, and distances on the globe.

use std::fmt;
use std::net::IpAddr;

/// A source of places.
pub struct Geo {
    lookup: Box<dyn Fn(IpAddr) -> Option<GeoPlace> + Send + Sync>,
}

/// A place and the size of the network that it holds for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeoPlace {
    pub latitude: f64,
    pub longitude: f64,
    /// Bits of the client's address that the place depends on.
    pub prefix_bits: u8,
}

/// The file is no MMDB.
#[derive(Debug)]
pub struct GeoError(maxminddb::MaxMindDbError);

impl fmt::Display for GeoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an MMDB file with cities; give one in the GeoIP2 City layout, or none")
    }
}

impl std::error::Error for GeoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Geo {
    /// From the bytes of an MMDB file in the GeoIP2 City layout (`location.latitude`, `location.longitude`).
    pub fn from_mmdb(bytes: Vec<u8>) -> Result<Geo, GeoError> {
        let reader = maxminddb::Reader::from_source(bytes).map_err(GeoError)?;
        Ok(Geo::from_fn(move |address| {
            let found = reader.lookup(address).ok()?;
            let location = found.decode::<maxminddb::geoip2::City>().ok()??.location;
            let (latitude, longitude) = (location.latitude?, location.longitude?);
            if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
                return None;
            }
            let network = found.network().ok()?;
            // IPv4 networks of an IPv6 tree may be told with 96 bits in front; fewer hold for all of IPv4.
            let bits = network.prefix();
            let prefix_bits =
                if address.is_ipv4() && bits > 32 { bits.saturating_sub(96) } else { bits };
            Some(GeoPlace { latitude, longitude, prefix_bits })
        }))
    }

    /// From a function, for simulation and tests.
    pub fn from_fn(lookup: impl Fn(IpAddr) -> Option<GeoPlace> + Send + Sync + 'static) -> Geo {
        Geo { lookup: Box::new(lookup) }
    }

    pub(crate) fn place(&self, address: IpAddr) -> Option<GeoPlace> {
        (self.lookup)(address)
    }
}

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Geo")
    }
}

/// Great-circle distance of two (latitude, longitude) in degrees, by the haversine formula.
pub fn distance_km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let half = |x: f64| (x / 2.0).sin().powi(2);
    let h = half(lat_b - lat_a) + lat_a.cos() * lat_b.cos() * half((b.1 - a.1).to_radians());
    2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()
}

/// Mean radius (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0088;
