package ingest

import (
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/counterfoil/counterfoil/schemas"
)

// Credential is a key as a caller sent it.
type Credential struct {
	ID, Secret string
	Tenant     string // when set, the key must be of this tenant (CRM.COM's organisation)
}

// KeyCredential splits a key in one string, id.secret.
func KeyCredential(key string) Credential {
	id, secret, _ := strings.Cut(key, ".")
	return Credential{ID: id, Secret: secret}
}

// PairCredential is a key sent as a pair; without a password the user is the whole key.
func PairCredential(user, password string) Credential {
	if password == "" {
		return KeyCredential(user)
	}
	return Credential{ID: user, Secret: password}
}

func (c Credential) given() bool { return c.ID != "" || c.Secret != "" }

// Caller is who sent a request.
type Caller struct {
	Tenant string
	KeyID  string
	Door   string
	Unit   string // of a login token; empty: none
}

// Authenticate finds out who sent the request. A key in the partner's own place (extra) is looked at before Authorization (Bearer, Basic) and
// X-Api-Key; the first place that holds one decides. The error is an *[Error] with CodeUnauthenticated, CodeForbidden (the key is good, but not
// for this door or from this address) or CodeRateLimited.
func (s *Service) Authenticate(r *http.Request, door string, extra ...Credential) (*Caller, error) {
	return s.authenticate(r, door, append(extra, headerCredential(r)))
}

// QueryKey authenticates at a door that takes a key in the query parameter api_key as well. A key there and one in a header must both be good, and of
// one tenant.
func QueryKey(r *http.Request, door string, authenticate func(r *http.Request, door string, extra ...Credential) (*Caller, error)) (*Caller, error) {
	key := r.URL.Query().Get("api_key")
	header := headerCredential(r)
	if key == "" {
		return authenticate(r, door)
	}
	credential := KeyCredential(key)
	if credential == (Credential{}) { // as if there were none
		return nil, NewError(CodeUnauthenticated, "the API key is not valid")
	}
	caller, err := authenticate(r, door, credential)
	if err != nil || !header.given() || header == credential { // the same key is counted once against its rate
		return caller, err
	}
	other, err := authenticate(r, door)
	if err != nil {
		return nil, err
	}
	if other.Tenant != caller.Tenant {
		return nil, NewError(CodeUnauthenticated, "the two API keys are not of one account")
	}
	return caller, nil
}

func (s *Service) authenticate(r *http.Request, door string, credentials []Credential) (*Caller, error) {
	noteDoor(r, door)
	i := slices.IndexFunc(credentials, Credential.given)
	if i < 0 {
		return nil, s.refuse(&Error{Code: CodeUnauthenticated, Message: "an API key is required", Index: -1, Cause: "no_key"})
	}
	c := credentials[i]
	key, err := s.key(c.ID)
	if err != nil {
		return nil, err
	}
	var hash []byte
	if key != nil {
		hash = key.SecretHash
	}
	// The hash of the secret is compared in constant time; ids are no secrets.
	match := subtle.ConstantTimeCompare(hash, hashSecret(c.Secret)) == 1
	if !match || c.Tenant != "" && c.Tenant != key.Tenant {
		return nil, s.refuse(&Error{Code: CodeUnauthenticated, Message: "the API key is not valid", Index: -1, Cause: "wrong_key"})
	}
	return s.admit(r, key, door)
}

// AuthenticateToken finds out who sent a request with a login token, by the key that it was issued for, as that key is now. The errors are
// those of [Service.Authenticate].
func (s *Service) AuthenticateToken(r *http.Request, door, token string) (*Caller, error) {
	noteDoor(r, door)
	t, err := s.tokens.Verify(token, time.Now())
	if err != nil {
		return nil, s.refuse(&Error{Code: CodeUnauthenticated, Message: "the token is not valid or has expired", Index: -1, Cause: "wrong_token"})
	}
	key, err := s.key(t.KeyID)
	if err != nil {
		return nil, err
	}
	if key == nil || key.Tenant != t.Tenant {
		return nil, s.refuse(&Error{Code: CodeUnauthenticated, Message: "the token is not valid or has expired", Index: -1, Cause: "wrong_token"})
	}
	caller, err := s.admit(r, key, door)
	if err != nil {
		return nil, err
	}
	caller.Unit = t.Unit
	noteToken(r, token)
	return caller, nil
}

// key finds a key; nil: there is none. Until all keys are loaded nobody knows that.
func (s *Service) key(id string) (*schemas.APIKey, error) {
	key := s.deps.Keys.APIKey(id)
	if key == nil {
		if err := s.deps.Keys.Ready(); err != nil {
			return nil, s.refuse(busy("starting", "the service is starting; try again later", err))
		}
	}
	return key, nil
}

// IssueToken makes a login token for a caller. unit may be empty.
func (s *Service) IssueToken(c *Caller, unit string) string {
	return s.tokens.Sign(Token{Tenant: c.Tenant, KeyID: c.KeyID, Unit: unit, Expires: time.Now().Add(TokenLife).Unix()})
}

// admit checks what a key may do: its state, door, addresses and rate.
func (s *Service) admit(r *http.Request, key *schemas.APIKey, door string) (*Caller, error) {
	switch {
	case !key.Enabled:
		return nil, s.refuse(&Error{Code: CodeUnauthenticated, Message: "the API key is not valid", Index: -1, Cause: "disabled_key"})
	case door != DoorJobs && key.Doors != nil && !slices.Contains(*key.Doors, door):
		return nil, s.refuse(&Error{Code: CodeForbidden, Message: "the API key does not open this API", Index: -1, Cause: "door"})
	case key.AllowedIPs != nil && !contains(*key.AllowedIPs, s.clientAddr(r)):
		return nil, s.refuse(&Error{Code: CodeForbidden, Message: "the API key may not be used from this address", Index: -1, Cause: "address"})
	}
	if after := s.rates.take(key); after > 0 {
		return nil, s.refuse(&Error{Code: CodeRateLimited, Message: "too many requests with this API key", Index: -1, RetryAfter: after, Cause: "rate"})
	}
	noteCaller(r, key)
	return &Caller{Tenant: key.Tenant, KeyID: key.ID, Door: door}, nil
}

// headerCredential reads the places that every door takes. The first that holds anything counts.
func headerCredential(r *http.Request) (c Credential) {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		c = KeyCredential(strings.TrimSpace(rest))
	} else if user, password, ok := r.BasicAuth(); ok {
		c = PairCredential(user, password)
	}
	if c.given() {
		return c
	}
	return KeyCredential(strings.TrimSpace(r.Header.Get("X-Api-Key")))
}

// clientAddr is the address that a request came from: the socket's, unless that is a trusted proxy; then the right-most one of
// X-Forwarded-For that is none. Only what a trusted proxy appended is believed. Invalid: unknown.
func (s *Service) clientAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr := parseAddr(host)
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if !addr.IsValid() || !trusted(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if hop = strings.TrimSpace(hop); hop == "" {
			continue
		}
		if addr = parseAddr(hop); !addr.IsValid() || !trusted(addr) {
			break
		}
	}
	return addr
}

// parseAddr reads an address without its zone; some proxies append a port.
func parseAddr(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	a, _ := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone("")
}

// contains reports whether one of the addresses or prefixes holds addr; what cannot be read holds nothing.
func contains(allowed []string, addr netip.Addr) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		p, err := parsePrefix(a)
		return err == nil && p.Contains(addr)
	})
}

// rates has a limiter for each key with a limit. Only keys that exist and were proven get one, so there are no more than keys.
type rates struct {
	mu   sync.Mutex
	keys map[string]*rate.Limiter
}

// take counts a request; a positive answer is how long to wait before the next, which was not allowed now.
func (l *rates) take(key *schemas.APIKey) time.Duration {
	if key.RateLimit == nil || *key.RateLimit <= 0 {
		return 0
	}
	limit := rate.Limit(*key.RateLimit)
	l.mu.Lock()
	lim := l.keys[key.ID]
	if lim == nil {
		lim = rate.NewLimiter(limit, int(*key.RateLimit))
		if l.keys == nil {
			l.keys = map[string]*rate.Limiter{}
		}
		l.keys[key.ID] = lim
	}
	if lim.Limit() != limit { // the key was changed
		lim.SetLimit(limit)
		lim.SetBurst(int(*key.RateLimit))
	}
	l.mu.Unlock()
	if lim.Allow() {
		return 0
	}
	return time.Second
}
