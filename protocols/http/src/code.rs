//! Error codes of HTTP/2 and HTTP/3: numbers that are sent, with names in an RFC.

/// Gives a type of codes its constants, and shows it by its name; what has none, by its number.
#[macro_export]
macro_rules! error_codes {
    ($code:ident { $($constant:ident = $number:literal $name:literal,)* }) => {
        impl $code {
            $(pub const $constant: $code = $code($number);)*

            /// The name in the RFC; empty for a code without one here.
            pub fn name(self) -> &'static str {
                match self {
                    $($code::$constant => $name,)*
                    _ => "",
                }
            }
        }

        impl ::std::fmt::Display for $code {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    "" => ::std::write!(f, "{:#x}", self.0),
                    name => f.write_str(name),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Code(u64);

    error_codes!(Code { NO_ERROR = 0x100 "H3_NO_ERROR", });

    #[test]
    fn codes_show_their_names_and_others_their_numbers() {
        assert_eq!(Code::NO_ERROR.to_string(), "H3_NO_ERROR");
        assert_eq!((Code(0x2a).name(), Code(0x2a).to_string()), ("", "0x2a".to_owned()));
    }
}
