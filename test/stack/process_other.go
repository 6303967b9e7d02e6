//go:build !linux

package stack

import "syscall"

// dieWithParent can do nothing outside Linux.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
