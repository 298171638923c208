# Sets registers and a prefix, then takes the PSW and the address space of the words below.
# An ELF file for -kernel, at 0x10000.
	.globl _start
_start:	larl %r1,asce
	lctlg %c1,%c1,0(%r1)
	spx 16(%r1)
	larl %r1,vals
	lmg %r2,%r12,0(%r1)
	lmg %r14,%r15,0(%r1)
	stctg %c0,%c0,88(%r1)
	oi 93(%r1),0x86			# EDAT, floating point, vectors
	lctlg %c0,%c0,88(%r1)
	ld %f1,0(%r1)
	vl %v17,0(%r1)
	lam %a2,%a3,0(%r1)
	larl %r1,psw
	lpswe 0(%r1)
loop:	j loop
	.balign 8
psw:	.quad 0x0000000180000000, loop	# replaced by the tests: 04 in front turns paging on
vals:	.quad 0x2222222222222222,0x3333333333333333,0x4444444444444444,5,6,7,8,9,10,11,12
	.quad 0
	.org 0x200
asce:	.quad 0				# replaced by the tests
psw_at:	.quad psw
prefix:	.long 0x4000
