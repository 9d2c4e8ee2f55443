//! Trust on first use for BMC certificates.
//!
//! BMCs ship self-signed, often expired certificates with a name nobody configured, and their clock may say 1970: chain,
//! name and dates prove nothing there. What stays is the key. The SHA-256 of the certificate's public key (SPKI, DER) is
//! learned at first contact; afterwards another key ends the handshake, so that no byte of a login reaches it.

use std::sync::{Arc, OnceLock};

use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::Digest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::domain::id::Sha256;

/// Checks certificates of one BMC against one key.
#[derive(Debug)]
pub struct Pin {
    key: OnceLock<Sha256>,
    /// The first other key that was shown, kept to name it in the error.
    refused: OnceLock<Sha256>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    /// `known` is the key learned earlier; `None` learns the key of the first completed handshake.
    pub fn new(known: Option<Sha256>) -> Arc<Self> {
        let key = known.map(OnceLock::from).unwrap_or_default();
        Arc::new(Self { key, refused: OnceLock::new(), provider: Arc::new(rustls::crypto::ring::default_provider()) })
    }

    /// The key connections are held to, once there is one.
    pub fn key(&self) -> Option<Sha256> {
        self.key.get().copied()
    }

    /// The other key that was shown and refused.
    pub fn refused(&self) -> Option<Sha256> {
        self.refused.get().copied()
    }

    /// TLS 1.2 and 1.3 with forward secrecy only: what rustls speaks.
    pub fn tls_config(self: &Arc<Self>) -> Result<rustls::ClientConfig, rustls::Error> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Self>::clone(self))
            .with_no_client_auth();
        // One server each: room for the usual 256 would cost tens of KiB a BMC.
        config.resumption = rustls::client::Resumption::in_memory_sessions(2);
        Ok(config)
    }

    fn hold_to(&self, pinned: Sha256, seen: Sha256) -> Result<(), rustls::Error> {
        if pinned == seen {
            return Ok(());
        }
        self.refused.get_or_init(|| seen);
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
    }
}

fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Sha256, rustls::Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| rustls::Error::from(rustls::CertificateError::BadEncoding))?;
    Ok(Sha256(sha2::Sha256::digest(parsed.tbs_certificate.subject_pki.raw).into()))
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = spki_sha256(end_entity)?;
        if let Some(pinned) = self.key() {
            self.hold_to(pinned, seen)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)?;
        let seen = spki_sha256(cert)?;
        self.hold_to(*self.key.get_or_init(|| seen), seen)?;
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)?;
        // Learned only now: the peer has proved that it holds the key it shows.
        let seen = spki_sha256(cert)?;
        self.hold_to(*self.key.get_or_init(|| seen), seen)?;
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
