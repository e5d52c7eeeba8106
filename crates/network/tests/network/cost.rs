use crate::node::*; use serde_json::json; use std::time::*; use std::collections::BTreeMap; use std::sync::{Mutex,Arc};
struct S(Arc<Mutex<BTreeMap<String,Vec<u128>>>>);
struct V(String,String,u128);
impl tracing::field::Visit for V {
 fn record_debug(&mut self,f:&tracing::field::Field,v:&dyn std::fmt::Debug){ match f.name(){"plugin"=>self.0=format!("{v:?}"),"command"=>self.1=format!("{v:?}"),_=>{}} }
 fn record_u128(&mut self,f:&tracing::field::Field,v:u128){ if f.name()=="microseconds"{self.2=v} }
}
impl tracing::Subscriber for S { fn enabled(&self,_:&tracing::Metadata<'_>)->bool{true} fn new_span(&self,_:&tracing::span::Attributes<'_>)->tracing::span::Id{tracing::span::Id::from_u64(1)} fn record(&self,_:&tracing::span::Id,_:&tracing::span::Record<'_>){} fn record_follows_from(&self,_:&tracing::span::Id,_:&tracing::span::Id){}
 fn event(&self,e:&tracing::Event<'_>){ let mut v=V(String::new(),String::new(),0); e.record(&mut v); if v.2>0 { self.0.lock().unwrap().entry(format!("{} {}",v.1,v.0)).or_default().push(v.2);} }
 fn enter(&self,_:&tracing::span::Id){} fn exit(&self,_:&tracing::span::Id){} }
fn sum(m:&Mutex<BTreeMap<String,Vec<u128>>>)->u128{ m.lock().unwrap().iter().filter(|(k,_)|k.starts_with("ADD")||k.starts_with("DEL")).flat_map(|(_,v)|v).sum() }
#[test] fn cost(){ let m=Arc::new(Mutex::new(BTreeMap::<String,Vec<u128>>::new())); tracing::subscriber::set_global_default(S(m.clone())).unwrap();
 on_a_node(|node|{ 
  let mut b=node.bridge(); b["ipam"]["ranges"]=json!([[{"subnet":"10.77.0.0/24"}]]); b["ipam"]["routes"]=json!([{"dst":"0.0.0.0/0"}]);
  let net=node.network(&[json!({"type":"loopback"}),b,json!({"type":"portmap","capabilities":{"portMappings":true}}),json!({"type":"firewall"}), json!({"type":"true"})][..4]);
  let warm=Namespace::new(); node.wait(net.add(&pod("warm",&warm))).unwrap();
  for i in 0..30 { let ns=Namespace::new(); let p=pod(&format!("p{i}"),&ns);
   let t=Instant::now(); net.ready().unwrap(); m.lock().unwrap().entry("ready".into()).or_default().push(t.elapsed().as_micros());
   let b4=sum(&m); let t=Instant::now(); node.wait(net.add(&p)).unwrap(); let e=t.elapsed().as_micros(); let d=e-(sum(&m)-b4); m.lock().unwrap().entry("overhead ADD".into()).or_default().push(d); m.lock().unwrap().entry("total ADD".into()).or_default().push(t.elapsed().as_micros());
   let b4=sum(&m); let t=Instant::now(); node.wait(net.delete(&p)).unwrap(); let e=t.elapsed().as_micros(); let d=e-(sum(&m)-b4); m.lock().unwrap().entry("overhead DEL".into()).or_default().push(d); m.lock().unwrap().entry("total DEL".into()).or_default().push(t.elapsed().as_micros()); }
  node.wait(net.delete(&pod("warm",&warm))).unwrap();
  // spawn cost: a static binary that does nothing
  let mut v=vec![]; for _ in 0..200 { let t=Instant::now(); let mut c=std::process::Command::new("/bin/busybox"); c.arg("true").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()); use std::os::unix::process::CommandExt; c.process_group(0).env("CNI_X","y"); let mut ch=c.spawn().unwrap(); let s=t.elapsed(); ch.wait().unwrap(); v.push((s.as_micros(),t.elapsed().as_micros())); }
  v.sort(); println!("spawn {:?}",v[100]);
 });
 for (k,v) in m.lock().unwrap().iter_mut(){ v.sort(); println!("{k}: median {} p95 {} n {}",v[v.len()/2],v[v.len()*95/100],v.len()); }
}
