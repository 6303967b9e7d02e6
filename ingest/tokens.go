package ingest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// TokenLife is how long a login token is good.
const TokenLife = 2 * time.Hour

// Token is what a login token says. It is signed and not stored, so that any replica accepts it; the state of its key is looked at each
// time that it is used.
type Token struct {
	Tenant  string `json:"t"`
	KeyID   string `json:"k"`
	Unit    string `json:"u,omitempty"` // chosen at login, as sent; empty: none
	Expires int64  `json:"e"`           // seconds since 1970
}

// Tokens signs and verifies tokens: base64url(JSON) "." base64url(HMAC-SHA256 of the part before).
type Tokens struct{ secrets [][]byte }

// NewTokens takes the secrets: the first signs, all verify, so that a secret can be replaced while tokens of the old one live.
func NewTokens(secrets []string) *Tokens {
	t := &Tokens{}
	for _, s := range secrets {
		t.secrets = append(t.secrets, []byte(s))
	}
	return t
}

// Sign makes the token's text.
func (t *Tokens) Sign(token Token) string {
	payload, err := json.Marshal(token)
	if err != nil {
		panic(err) // strings and an integer
	}
	text := tokenText.EncodeToString(payload)
	return text + "." + tokenText.EncodeToString(t.mac(t.secrets[0], text))
}

// tokenText is strict, so that no two texts are the same token; line breaks, which it passes over all the same, Verify refuses.
var tokenText = base64.RawURLEncoding.Strict()

var errToken = errors.New("token is not valid or has expired")

// Verify reads a token's text and refuses what none of the secrets signed and what has expired.
func (t *Tokens) Verify(text string, now time.Time) (Token, error) {
	body, signature, ok := strings.Cut(text, ".")
	mac, err := tokenText.DecodeString(signature)
	if !ok || err != nil || strings.ContainsAny(text, "\r\n") {
		return Token{}, errToken
	}
	signed := false
	for _, secret := range t.secrets {
		signed = hmac.Equal(mac, t.mac(secret, body)) || signed
	}
	if !signed {
		return Token{}, errToken
	}
	var token Token
	payload, err := tokenText.DecodeString(body)
	if err != nil || json.Unmarshal(payload, &token) != nil || now.Unix() >= token.Expires {
		return Token{}, errToken
	}
	return token, nil
}

func (t *Tokens) mac(secret []byte, text string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}
