package ingest

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
)

// Doors: the APIs that a key may open, as in [schemas.APIKey].Doors and [Batch].Door.
const (
	DoorMediahawk = "mediahawk"
	DoorHelloID   = "helloid"
	DoorCRM       = "crm.com"
	DoorAvon      = "avon"
	DoorCaliq     = "caliq"
	DoorV1        = "v1"   // our own, for writing
	DoorJobs      = "jobs" // GET /v1/batches and below; every key opens it, because each door's pending answers point there
)

// Doors lists the doors that a key can be restricted to.
func Doors() []string {
	return []string{DoorMediahawk, DoorHelloID, DoorCRM, DoorAvon, DoorCaliq, DoorV1}
}

// Lengths of the two parts of a key; 22 base62 characters are a little over 128 bits.
const (
	keyIDLength     = 6
	keySecretLength = 22
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// KeyOptions are what a key may do.
type KeyOptions struct {
	Doors      []string // empty: all
	AllowedIPs []string // addresses or prefixes; empty: any
	RateLimit  int32    // requests a second; 0: no limit
	Note       string
}

// NewKey makes a key for a tenant: its text, id.secret, which is shown once and kept nowhere, and its record for the topic api_keys. The
// error names every option that is wrong.
func NewKey(tenant string, o KeyOptions) (key string, record *schemas.APIKey, err error) {
	var errs []error
	if tenant == "" || strings.ContainsAny(tenant, "/\x00") {
		errs = append(errs, fmt.Errorf("tenant %q must not be empty or contain a slash or NUL", tenant))
	}
	for _, d := range o.Doors {
		if !slices.Contains(Doors(), d) {
			errs = append(errs, fmt.Errorf("door %q is not one of %s", d, strings.Join(Doors(), ", ")))
		}
	}
	for _, a := range o.AllowedIPs {
		if _, err := parsePrefix(a); err != nil {
			errs = append(errs, fmt.Errorf("allowed address %q is neither an address nor a prefix", a))
		}
	}
	if o.RateLimit < 0 {
		errs = append(errs, errors.New("rate limit must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return "", nil, err
	}
	id, secret := randomText(keyIDLength), randomText(keySecretLength)
	record = &schemas.APIKey{ID: id, Tenant: tenant, SecretHash: hashSecret(secret), Enabled: true, Note: o.Note, CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
	if len(o.Doors) > 0 {
		record.Doors = &o.Doors
	}
	if len(o.AllowedIPs) > 0 {
		record.AllowedIPs = &o.AllowedIPs
	}
	if o.RateLimit > 0 {
		record.RateLimit = &o.RateLimit
	}
	return id + "." + secret, record, nil
}

func randomText(n int) string {
	b := make([]byte, n)
	for i := range b {
		k, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		b[i] = base62[k.Int64()]
	}
	return string(b)
}

// hashSecret needs no salt and no slow hash: the secret has 128 random bits.
func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// parsePrefix reads a prefix, or an address as the prefix that holds only it.
func parsePrefix(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}
